"""The commands of ``align-clip``: a module of this package that has ``add_arguments`` and ``run`` is a command."""
