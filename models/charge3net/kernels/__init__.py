"""Faster versions of single methods of ChargE3Net."""
