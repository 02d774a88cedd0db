"""What each stage of a study does, as plain functions: no Ray, no scheduling, no progress.

The store is the only thing that passes between stages. Each function reads what earlier stages
left there, and leaves one entry itself before it returns.
"""
