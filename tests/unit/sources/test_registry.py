from importlib.metadata import EntryPoint, EntryPoints

import pytest

from mtlpar.sources import registry
from mtlpar.sources.base import Source
from mtlpar.sources.settings import SourceSettings


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_built_in_sources_are_found_under_their_own_names(name):
    source = registry.get_source(name)
    assert source.name == name
    assert source.level_of_theory == source.theory(SourceSettings())


def test_an_unknown_source_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"no source is called 'oc20'; known sources: ani1x, qm7x"):
        registry.get_source("oc20")


@pytest.fixture
def plug_in(monkeypatch):
    def install(value):
        points = EntryPoints([EntryPoint("mine", value, registry.ENTRY_POINT_GROUP)])
        monkeypatch.setattr(registry, "_plug_ins", lambda: points)

    return install


def test_a_source_of_another_package_is_found(plug_in):
    # Any module that holds a Source will do as that package.
    plug_in("mtlpar.sources.ani1x:SOURCE")
    assert "mine" in registry.source_names()
    assert isinstance(registry.get_source("mine"), Source)


def test_a_plug_in_that_is_no_source_is_refused(plug_in):
    plug_in("mtlpar.sources.ani1x:read")
    with pytest.raises(ValueError, match="source 'mine' is a function, expected a Source"):
        registry.get_source("mine")
