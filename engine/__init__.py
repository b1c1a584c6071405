"""What the programs run on: data order, steps, runs, devices; reads no flag."""
