"""Brings records, jobs and metrics in line with the planner's decisions."""
