"""Image files of a data set and the order in which they are read.

files, decoders, jph, icc, photo, shards: one file, its formats and colours, tar archives
listing, manifest:  which files a data set has, and which of them are usable
order:              sample number -> image
reader, stream:     reading while training, from a disk or from an object store
"""
