"""What each model can learn, on data made for it: `make learn`.

tests/learning/ trains the models and checks what they must learn; the commands
of this folder make tables of the results, compare those of two versions, and
compare settings on the same data.
"""
