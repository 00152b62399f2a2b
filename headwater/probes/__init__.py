"""Probes that need no tuning, beside the task's own head: ridge and logistic regression, and nearest neighbours."""
