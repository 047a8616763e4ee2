"""The lab: runs stock kernels under the VMM, directly or inside a nested machine. See README.md."""
