"""A material of the Materials Project is one group, whoever writes its identifier and how."""

from __future__ import annotations

import pytest

from mtlpar.core.hashing import name_hash
from mtlpar.sources.materials_project import material_group, material_name


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        # What AlphaID of emmet-core 0.87.3 prints for these numbers: one digit, a carry, silicon,
        # a material of MatPES, the last one that is printed in digits by default.
        ("mp-b", "mp-1"),
        ("mp-ba", "mp-26"),
        ("mp-ft", "mp-149"),
        ("mp-cewns", "mp-999484"),
        ("mp-hilzd", "mp-3347529"),
        # The same with zeros in front, as padlen asks for.
        ("mp-aaaaft", "mp-149"),
        ("mvc-ft", "mvc-149"),
        ("mp-a", "mp-0"),
    ],
)
def test_letters_are_digits_of_base_26(identifier, name):
    assert material_name(identifier) == name
    assert material_group(identifier) == material_group(name)


@pytest.mark.parametrize("other", ["mp-149", "mp-834-Ag", "agm001", "mp-", "mp-Ft", "mp-149a", ""])
def test_what_is_not_in_letters_stays_as_it_is(other):
    assert material_name(other) == other


def test_the_group_is_the_one_of_mptrj():
    # Splits of packs that exist were dealt by this hash.
    assert material_group("mp-ft") == name_hash("mptrj", "mp-149")
