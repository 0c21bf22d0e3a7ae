"""Supports runs on any machine: options, processes, files, weights, digests, stages that are skipped when done."""
