"""What released versions of the suite have left in records, queue and store, and how their clients call."""
