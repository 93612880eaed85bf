"""All properties that a conformation of QM7-X has, as its README lists them."""

import h5py
import numpy as np

# Properties of QM7-X that nothing reads, with their shapes; None stands for the number of atoms.
QM7X_UNUSED = {
    **dict.fromkeys(
        ("sRMSD", "eDFTB+MBD", "eAT", "eMBD", "eTS", "eNN", "eKIN", "eNE", "eEE"), (1,)
    ),
    **dict.fromkeys(("eXC", "eX", "eC", "eXX", "eKSE", "eH", "eL", "HLgap", "DIP", "mC6"), (1,)),
    **dict.fromkeys(("vDIP", "vTQ", "vIQ", "vEQ"), (3,)),
    **dict.fromkeys(("mPOL", "KSE"), (1,)),
    **dict.fromkeys(("sMIT", "mTPOL"), (9,)),
    **dict.fromkeys(("vdwFOR", "hVDIP"), (None, 3)),
    **dict.fromkeys(("hVOL", "hRAT", "hCHG", "hDIP", "atC6", "atPOL", "vdwR"), (None,)),
}


def write_conformation(group, numbers, positions, energy, forces):
    """Write all properties of a conformation; PBE0 labels are one more than those of PBE0+MBD."""
    group["atNUM"] = numbers
    group["atXYZ"] = positions
    group["ePBE0+MBD"] = energy
    group["ePBE0"] = energy + 1
    for key, shape in QM7X_UNUSED.items():
        size = tuple(len(numbers) if length is None else length for length in shape)
        space = h5py.h5s.create_simple(size)
        unused = h5py.h5d.create(group.id, key.encode(), h5py.h5t.NATIVE_DOUBLE, space)
        unused.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones(size))
    group["totFOR"] = forces
    group["pbe0FOR"] = forces + 1
