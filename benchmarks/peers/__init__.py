"""The servers that Crossfade is compared with, each set up the way its own documentation recommends."""
