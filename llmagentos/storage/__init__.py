"""Bytes: path names, Delta tables, the spool, snapshots, suites, leases and manifests."""
