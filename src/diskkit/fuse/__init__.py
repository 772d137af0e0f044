# SPDX-License-Identifier: Apache-2.0
"""Disks as files and folders, over the kernel's own FUSE protocol: no libfuse, nothing compiled.

`wire.py` the messages, `tree.py` what a mount shows, `session.py` the threads that answer,
`mounting.py` how it comes into the file tree and out of it.
"""
