"""Weights in the file formats of others; each needs an optional package only when it is used."""

from __future__ import annotations

from sparsewright.export.hdf5 import HDF5_SUFFIXES, HDF5Error, is_hdf5, load_hdf5, read_hdf5_metadata, save_hdf5

__all__ = ["HDF5_SUFFIXES", "HDF5Error", "is_hdf5", "load_hdf5", "read_hdf5_metadata", "save_hdf5"]
