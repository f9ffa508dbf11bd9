"""What runs in worker processes: standard library only, and started without this package's others.

These files are imported by a bare interpreter that knows no other package (see
`sandbox.worker`), so that what a program finds in memory is small and worth nothing.
"""
