"""Native files of the sources in their real layouts, as large as the real ones or any part of it.

Nothing in them was computed by the methods of the sources: atoms hang on springs at the places of
a template, so that energies and forces agree and every check of the labels is passed honestly.
"""
