"""Masked acoustic models: Mockingjay, TERA and Audio ALBERT. One architecture, one file format, one pretraining objective.

Sources: Mockingjay (https://arxiv.org/abs/1910.12638), TERA (https://arxiv.org/abs/2007.06028), Audio ALBERT (https://arxiv.org/abs/2005.08575).
"""
