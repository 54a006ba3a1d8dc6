"""What lies on disk, and in which order it is read: files, formats, manifests, tar shards, streams."""
