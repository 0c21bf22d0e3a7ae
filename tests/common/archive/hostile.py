"""What hostile files are made of."""

import io

import torch


class Evil:
    """An object whose pickle calls a function of its choice."""

    def __reduce__(self):
        return (eval, ("1 + 1",))


def weights_of(**records):
    """A file as torch writes it, of any records."""
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, content in records.items():
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return buffer.getvalue()
