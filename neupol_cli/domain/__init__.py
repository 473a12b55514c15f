"""Where a model can be believed: what its training data were like, and how a structure differs.

bonds     who is bonded to whom, by covalent radii
charges   total charge and multiplicity that a structure states
facts     what training data had, kept in a checkpoint's header
doubts    what of a structure, and of an answer for it, those data did not have
"""
