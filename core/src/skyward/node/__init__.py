"""The machine's side: an agent that owns the machine, and workers that run the tasks.

Never imports the engine; a machine has only this package, ``skyward.link`` and ``skyward.hooks``.
"""
