"""The packed store: ADIOS2 ``.bp`` folders of flat columns."""
