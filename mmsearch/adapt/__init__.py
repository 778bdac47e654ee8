"""Adapting the model to the user's own library, without labels: `mmsearch train --from-library`.

`run` tells the story; `words` finds what could be asked for an item, `split` keeps files apart, `plan` writes down what is trained and
asked, `pictures` decodes, `kept` holds the model to what it knew, `mixing` blends old and new weights, `judge` decides.
"""
