"""Faster versions of single methods of DeepDFT."""
