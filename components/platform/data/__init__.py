"""Data under DVC: fetching, hashing and changing it."""
