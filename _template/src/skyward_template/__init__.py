"""What this distribution adds, in one sentence.

The object that the entry point names is defined or imported here; the rest stands in modules beside this one.
"""
