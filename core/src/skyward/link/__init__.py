"""Bytes between the client and its nodes: frames, pickles, blobs, and the wires they travel on.

Imports neither the engine nor the node. Used by both.
"""
