"""Pruning put into a vision transformer that someone else exported: found by pattern, cut, proven, written."""
