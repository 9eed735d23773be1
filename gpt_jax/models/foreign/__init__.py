"""Other people's models: their configurations, names and files, read and written.

A family of models is two tables: `families.py` has its configuration key by key, `tensors.py` its
tensors name by name; both are read in either direction. `configs.py` turns a config.json into a
`ModelConfig` and back, `assemble.py` makes our parameters of a checkpoint's tensors, slice by
slice, and `export.py` a checkpoint of our parameters.
"""
