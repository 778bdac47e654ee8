"""The shipped checkpoint, assembled from open pretrained parts and trained on two processor cores.

`mmsearch train --recipe mini` runs these stages in order, each resumable, each leaving its result in the run's folder:

1. `words`: the multilingual encoder's upper layers and the output map, on pairs of texts, with MiniLM's similarities as a second teacher.
2. `fuse`: one vector from what that encoder and MiniLM say of a text; in other languages than English MiniLM's part is guessed.
3. `captions`: what both then say of every caption, label and translation, computed once.
4. `trunk`: the last blocks of the convolutional network, against those captions.
5. `grids`: what the network then sees in every photo, page and clip, computed once.
6. `seeing`: from grids to vectors: photos, clips, photos cut together, beside the classes that the network was trained to tell. Several heads, merged.
7. `join`: visual tokens beside text in the encoder's sequence: composed queries, pages, pictures with their words.
8. `finish`: a direction for each kind of item, a basis whose first coordinates matter most, and the checkpoint's folder.

The cheap things come first because the frozen parts are computed once: `seeing` sees millions of pairs an hour.
"""
