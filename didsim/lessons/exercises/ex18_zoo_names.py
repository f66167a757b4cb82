"""Exercise 18 (lesson 8): the zoo. Given the curve, name the mistake.

Beside this file lie zoo.svg (and zoo.png), the curves of ten runs, and zoo.csv, their numbers. Each run is that of
exercise 17, with one of the mistakes made there, with labels that are swapped from step 100 on, or with none. Which is
which? Write one of these into each pair of quotes; each of them occurs once.

    no mistake
    flipped margin
    negated loss
    β twice
    lost reference
    detached margin
    wrong log base
    noisy labels
    moving reference
    swapped halfway

Check it:  didsim teach check ex18_zoo_names.py
A hint:    didsim teach hint ex18
"""

# exercise: ex18

ANSWERS = {
    "A": "",
    "B": "",
    "C": "",
    "D": "",
    "E": "",
    "F": "",
    "G": "",
    "H": "",
    "I": "",
    "J": "",
}
