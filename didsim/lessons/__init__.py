"""The course. So far: the quickstart notebook, `quickstart.ipynb`, which lies beside this file."""
