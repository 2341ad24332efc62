"""The names of the axes of a device mesh, outermost first: neighbours on the last ones talk most and have the fastest links.

data: copies of the model, each with its own rows. fsdp: rows too, and the model's parameters in pieces. expert: rows too, and the experts
of a mixture in pieces. context: pieces of the time of every row. tensor: pieces of every matrix.
"""

AXES = ("data", "fsdp", "expert", "context", "tensor")
ROWS = ("data", "fsdp", "expert")  # the rows of a batch are split over all of these
PIECES = "fsdp"
TIME = "context"
TENSOR = "tensor"
