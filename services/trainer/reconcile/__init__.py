"""Brings records, jobs and gauges in line with what the planner decides."""
