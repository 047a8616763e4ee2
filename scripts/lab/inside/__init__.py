"""The part of the lab that runs beside the VMM: in the nested machine (L1) or directly on the host.

It uses a small part of the standard library only, because all it imports is copied into L1.
"""
