"One hundred papers, a notebook each; listing them imports nothing heavy."
from .catalogue import catalog, load
