"""A pool of small organic molecules, given by SMILES."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final

from .base import SampleError, random_stream

_STREAM: Final = 102
_LARGEST_HEAVY: Final = 9

CURATED: Final = tuple(
    """
    C N O CC CO CN C=O C#N C=C C#C CCO COC CC=O CC#N C=CC C#CC CCC CNC CCN OC=O NC=O COC=O
    CC(=O)O CC(N)=O CC(C)=O CCC=O C=CC=O C1CO1 C1CN1 C1CC1 C1COC1 C1CCC1 C1CNC1 C=CO C=CN NN NO
    CNN CON OCO NCO NC#N N#CC#N C#CC#N C=C=C C=C=O C=NC CC=N CC=NO C=NO N=C=O CN=C=O OCCO NCCO NCCN
    COCC CCOC=O COC(C)=O CC(=O)NC CNC=O CN(C)C CN(C)C=O NC(N)=O NC(=N)N OC(=O)C=O O=CC=O CC(=O)C=O
    OCC=O NCC=O NCC(=O)O CC(O)C CC(N)C CC(C)C CCCC CC=CC C=CC=C CC#CC C=CC#N CC(=C)C C1=CCC1 C1=CC1
    C1CCCC1 C1CCOC1 C1CCNC1 C1CCCO1 C1=CCCC1 c1ccoc1 c1cc[nH]c1 c1c[nH]cn1 c1cnoc1 c1cocn1
    c1cc[nH]n1 c1nn[nH]n1 c1ccccc1 c1ccncc1 c1cnccn1 c1ccnnc1 c1ncncn1 Cc1ccccc1 Oc1ccccc1 Nc1ccccc1
    C1CCCCC1 CC1CC1 OC1CC1 NC1CC1 CC1CO1 O=C1CC1 O=C1CCC1 O=C1CCO1 O=C1CCN1 O=C1CCCO1 OCC#C NCC#C
    OCC#N NCC#N CC(O)C#N CCC#N OC(=O)C#C CC(C)(C)C CC(C)(C)O CCCO CCCN CCOCC OC(C)CO NC(C)C(N)=O
    CC(=O)C(C)=O CC(=O)CC(C)=O CC(=O)OC=O C=CC(=O)O C=CC(N)=O C=COC=O C=COC C=CNC CC(C)=NO COCO
    COCOC CC1=CC=CC1 C1=CC=CC1 OCC(O)C=O OCC(O)CO NC1=NC=CO1 CC(=O)N=C C=CC=CC C[N+](=O)[O-] CON=O
    O=C(O)C(=O)O OC(=O)CC(=O)O CC(O)C(=O)O NCCC(=O)O CNCC(=O)O O=C1C=CC(=O)C1 O=C1NC=CC=C1
    """.split()  # noqa: SIM905 - one column of quotes would hide the molecules
)
"""Molecules of H, C, N and O that open the pool."""

CURATED_HALOGEN_SULFUR: Final = tuple(
    """
    S CS CCS CSC CCl CCCl C=CCl ClCCl C=CS CC=S C=S SC=O CSC=O CC(=O)S CC(=O)Cl O=CCl NCCS OCCS
    OCCCl C1CS1 C1CCS1 c1ccsc1 c1cscn1 CSSC CS(C)=O CS(C)(=O)=O CS(=O)(=O)N ClC=CCl ClC#C ClCC#N
    SCC#N CC(Cl)C CC(S)C ClCC=O SCC=O NC(=S)N CC(N)=S Clc1ccco1 CSC#N CN=C=S ClCCCl SCCS CCSC OCSC
    """.split()  # noqa: SIM905 - one column of quotes would hide the molecules
)
"""Molecules with S or Cl that open the pool of the source that has these elements."""

_CORES: Final = (
    "C({a}){b}", "N({a}){b}", "O({a}){b}", "C({a})C{b}", "C({a})=C{b}", "C(=O)({a}){b}",
    "C({a})OC{b}", "C({a})NC{b}", "C({a})=N{b}", "C({a})C(=O){b}", "C1({a})CC1{b}", "C1({a})OC1{b}",
    "C(=O)({a})O{b}", "C(=O)({a})N{b}", "C(C)({a}){b}", "C(O)({a}){b}", "C(N)({a}){b}",
    "C(=C)({a}){b}", "C({a})C#C{b}", "C({a})CC{b}", "C1({a})=CC1{b}", "c1({a})ccoc1{b}",
    "c1({a})cc[nH]c1{b}", "C1({a})CNC1{b}", "C1({a})COC1{b}", "C({a})(C#N){b}", "C({a})(C=O){b}",
    "C({a})C=C{b}",
)  # fmt: skip
_ENDS: Final = (
    "[H]", "C", "CC", "O", "N", "OC", "NC", "C#N", "C=O", "C=C", "C#C", "C(C)C", "C9CC9", "CO",
    "CN", "C(N)=O", "C(=O)O", "C(C)=O", "N(C)C", "CCC",
)  # fmt: skip
_HALOGEN_SULFUR_ENDS: Final = ("S", "SC", "Cl", "CS", "CCl", "C(=O)Cl")

_UNSTABLE: Final = ("[O,N,S,Cl]~[O,N]~[O,N,S]", "[OX2H][CX4][OX2H]", "O-O", "N-Cl", "O-Cl", "O-S")


def molecule_smiles(
    seed: int, *, share: float, stream: int, heavy: int, halogen_sulfur: bool = False
) -> Iterator[str]:
    """Enumerate distinct molecules: first curated ones, then combinations of fragments.

    All sources walk through the same molecules in the same order and keep a random share of
    them, which is how their chemistries come to overlap in part.

    Args:
        seed: Seed of the sample.
        share: Probability that a molecule is kept.
        stream: Number that tells the sources apart.
        heavy: Largest number of atoms other than hydrogen.
        halogen_sulfur: Adds molecules with S and Cl, about one in three.
    """
    keep = random_stream(seed, _STREAM, stream)
    seen: set[str] = set()
    for smiles in _candidates(seed, halogen_sulfur=halogen_sulfur):
        canonical = _canonical(smiles, heavy)
        if canonical is None or canonical in seen:
            continue
        seen.add(canonical)
        if keep.random() < share:
            yield canonical


def _candidates(seed: int, *, halogen_sulfur: bool) -> Iterator[str]:
    organic = iter((*CURATED, *_combined(seed, _ENDS, _ENDS)))
    if not halogen_sulfur:
        yield from organic
        return
    mixed_ends = (*_ENDS, *_HALOGEN_SULFUR_ENDS)
    mixed = iter((*CURATED_HALOGEN_SULFUR, *_combined(seed, mixed_ends, _HALOGEN_SULFUR_ENDS)))
    done = object()
    while True:
        drawn = [next(organic, done), next(organic, done), next(mixed, done)]
        if all(item is done for item in drawn):
            return
        yield from (item for item in drawn if isinstance(item, str))


def _combined(seed: int, left: tuple[str, ...], right: tuple[str, ...]) -> list[str]:
    """Return all cores with all pairs of ends, in an order that mixes the cores."""
    made = [core.format(a=f"{a}", b=f"{b}") for core, a, b in product(_CORES, left, right)]
    order = random_stream(seed, _STREAM).permutation(len(made))
    return [made[index] for index in order]


def _canonical(smiles: str, heavy: int) -> str | None:
    from rdkit import Chem

    if len(smiles) > 6 * _LARGEST_HEAVY:
        return None
    mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumHeavyAtoms() > heavy:
        return None
    if "." not in smiles and smiles not in CURATED and smiles not in CURATED_HALOGEN_SULFUR:
        for pattern in _UNSTABLE:
            if mol.HasSubstructMatch(Chem.MolFromSmarts(pattern)):
                return None
    return str(Chem.MolToSmiles(mol))


def prepare_rdkit() -> None:
    """Silence RDKit in this process.

    Raises:
        SampleError: RDKit is missing.
    """
    try:
        from rdkit import rdBase
    except ImportError as error:
        raise SampleError(
            "Building the molecules of the sample needs the package rdkit, which is not "
            "installed; install it with: pip install --editable '.[sample]'"
        ) from error
    rdBase.DisableLog("rdApp.*")
