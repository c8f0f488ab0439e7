# Dolmen 1.0 for Kaitai Struct (https://kaitai.io). format.md is the normative text; this is its layout in another language, without the
# rules that go beyond layout: CRCs, orders and agreements are for the program that uses it. check_kaitai.py compares the two, and runs it.
meta:
  id: dolmen
  title: Dolmen tensor checkpoint
  file-extension: dolmen
  license: MIT OR Apache-2.0
  ks-version: "0.11"
  endian: le
  bit-endian: le
  encoding: UTF-8
doc: |
  Named tensors, and if wanted the nested object they came from. The header is followed by a record for each tensor, in the order in
  which they were written, then by the index, which has it all sorted by name, and by the header's bytes again.

  Parsing reads the data of all storages. To read some of them only, use header and index, and `data` of the storages in question.
doc-ref: format.md
seq:
  - id: header
    type: header
  - id: records
    type: record
    repeat: until
    repeat-until: _io.pos >= header.index_offset
    if: header.index_offset > 64
    doc: One for each tensor. They repeat what the index says, so that a file whose end is lost can be read from its beginning.
  - id: index
    type: index
    size: header.index_len
  - id: trailer
    type: header
    doc: The bytes of the header again.
types:
  header:
    doc: 64 bytes, at the beginning of the file and at its end.
    seq:
      - id: magic
        contents: [0x89, 0x44, 0x4f, 0x4c, 0x4d, 0x45, 0x4e, 0x0a]
        doc: 89 44 4F 4C 4D 45 4E 0A.
      - id: major
        type: u2
        doc: 1.
      - id: minor
        type: u2
        doc: Any; this text describes 0.
      - id: required_features
        type: u4
        doc: 0; no bit is defined in 1.0.
      - id: file_len
        type: u8
        doc: The length of the file.
      - id: index_offset
        type: u8
        doc: A multiple of 64, at least 64.
      - id: index_len
        type: u8
        doc: A multiple of 8.
      - id: index_crc32
        type: u4
        doc: CRC-32 of the index.
      - id: alignment_log2
        type: u1
        doc: 6 to 21.
      - id: block_log2
        type: u1
        doc: 12 to 30.
      - id: reserved
        contents: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        doc: Must be 0.
      - id: header_crc32
        type: u4
        doc: CRC-32 of bytes 0 to 59.
    instances:
      alignment:
        value: 1 << alignment_log2
        doc: The data of a storage begins at a multiple of so many bytes.
      block_len:
        value: 1 << block_log2
        doc: Bytes of a checksum block.
  record:
    doc: A descriptor, and the data of the storage that it introduces, unless it describes a view of one that came before.
    seq:
      - id: descriptor
        type: descriptor
      - id: padding_before_data
        size: descriptor.data_offset - _io.pos
        if: not descriptor.flags.view
        doc: Zeros.
      - id: data
        size: descriptor.data_len
        if: not descriptor.flags.view
      - id: padding_after
        size: (64 - _io.pos % 64) % 64
        doc: Zeros, to a multiple of 64 bytes of the file.
  descriptor:
    doc: The self-contained description of one tensor.
    seq:
      - id: magic
        contents: [0x44, 0x4f, 0x4c, 0x4d, 0x52, 0x45, 0x43, 0x0a]
        doc: 44 4F 4C 4D 52 45 43 0A (DOLMREC\n).
      - id: descriptor_len
        type: u4
        doc: Length of the whole descriptor, a multiple of 8.
      - id: storage
        type: u4
        doc: Number of the storage introduced or viewed.
      - id: data_offset
        type: u8
        doc: Where the storage's data begins.
      - id: data_len
        type: u8
        doc: Length of the storage's data.
      - id: start
        type: u8
        doc: First byte of the tensor within the storage.
      - id: data_crc32
        type: u4
        doc: CRC-32 of the storage's data.
      - id: bits
        type: u4
        doc: Bits per element.
      - id: dtype
        type: u2
        enum: dtype
        doc: Dtype code.
      - id: rank
        type: u1
        doc: Number of dims.
      - id: flags
        type: descriptor_flags
      - id: name_len
        type: u4
        doc: Bytes of the name.
      - id: reserved
        contents: [0, 0, 0, 0, 0, 0, 0, 0]
        doc: Must be 0.
      - id: dims
        type: u8
        repeat: expr
        repeat-expr: rank
      - id: strides
        type: u8
        repeat: expr
        repeat-expr: rank
        if: flags.strided
        doc: In elements; only where they are not those of row-major order.
      - id: name
        type: str
        size: name_len
      - id: padding
        size: "descriptor_len - 64 - 8 * rank * (flags.strided ? 2 : 1) - name_len - 4"
        doc: Zeros, as few as make descriptor_len a multiple of 8.
      - id: crc32
        type: u4
        doc: CRC-32 of all bytes of the descriptor before it.
  descriptor_flags:
    seq:
      - id: strided
        type: b1
        doc: Strides follow the dims.
      - id: view
        type: b1
        doc: The record introduces no storage.
      - id: unfinished
        type: b1
        doc: The record is still being written; never set in a committed file.
      - id: reserved
        type: b5
        doc: Must be 0.
  index:
    doc: A table of sections, then the sections, each padded with zeros to a multiple of 8 bytes.
    seq:
      - id: section_table
        type: section_table
      - id: entries
        type: section_entry
        repeat: expr
        repeat-expr: section_table.section_count
      - id: sections
        type: section(_index)
        repeat: expr
        repeat-expr: section_table.section_count
    instances:
      first_required:
        value: "entries[0].kind == section_kind::names ? 0 : 1"
        doc: Kinds are in ascending order, and the required ones are 1 to 5; an ancillary section of kind 0 may come before them.
      names:
        value: sections[first_required].content.as<names>
      dims:
        value: sections[first_required + 1].content.as<dims>
      tensors:
        value: sections[first_required + 2].content.as<tensors>
      storages:
        value: sections[first_required + 3].content.as<storages>
      blocks:
        value: sections[first_required + 4].content.as<blocks>
  section_table:
    seq:
      - id: section_count
        type: u4
        doc: Number of entries.
      - id: reserved
        type: u4
        doc: Must be 0.
  section_entry:
    seq:
      - id: kind
        type: u4
        enum: section_kind
        doc: See below; strictly ascending.
      - id: flags
        type: u4
        doc: "Bit 0: ancillary; the rest 0."
      - id: section_len
        type: u8
        doc: Bytes of the section, without padding.
    instances:
      is_ancillary:
        value: (flags & 1) != 0
        doc: A reader that does not know the kind may go on without the section.
      is_private:
        value: kind.to_i >= 0x80000000
  section:
    params:
      - id: number
        type: u4
    seq:
      - id: content
        size: entry.section_len
        type:
          switch-on: entry.kind
          cases:
            section_kind::names: names
            section_kind::dims: dims
            section_kind::tensors: tensors
            section_kind::storages: storages
            section_kind::blocks: blocks
            section_kind::metadata: cbor
            section_kind::document: cbor
      - id: padding
        size: (8 - _io.pos % 8) % 8
        doc: Zeros.
    instances:
      entry:
        value: _parent.entries[number]
  names:
    doc: The tensors' names, one after the other, in the order of the tensors, with nothing between them.
    seq:
      - id: bytes
        size-eos: true
  dims:
    doc: For each tensor in order its dims, then its strides if it is strided.
    seq:
      - id: numbers
        type: u8
        repeat: eos
  tensors:
    doc: In ascending order of the bytes of their names.
    seq:
      - id: records
        type: tensor_record
        repeat: eos
  storages:
    doc: In the order of their data in the file.
    seq:
      - id: records
        type: storage_record
        repeat: eos
  blocks:
    doc: CRC-32 of each checksum block, storage after storage.
    seq:
      - id: crcs
        type: u4
        repeat: eos
  cbor:
    doc: One CBOR item (RFC 8949) in deterministic encoding, with the tags of section 9 of format.md.
    seq:
      - id: item
        size-eos: true
  tensor_record:
    seq:
      - id: first_name_byte
        type: u8
        doc: Which byte of names is its name's first.
      - id: first_dim
        type: u8
        doc: Which element of dims is its first.
      - id: start
        type: u8
        doc: First byte of the tensor within its storage.
      - id: name_len
        type: u4
        doc: Bytes of the name, at most 65535.
      - id: storage
        type: u4
        doc: Number of the storage.
      - id: dtype
        type: u2
        enum: dtype
        doc: Dtype code, not 0.
      - id: rank
        type: u1
        doc: Number of dims, 0 to 255.
      - id: flags
        type: u1
        doc: "Bit 0: STRIDED; the rest 0."
      - id: bits
        type: u4
        doc: Bits per element, at least 1.
    instances:
      is_strided:
        value: (flags & 1) != 0
      name:
        io: _root.index.names._io
        pos: first_name_byte
        size: name_len
        type: str
      shape:
        io: _root.index.dims._io
        pos: first_dim * 8
        type: u8
        repeat: expr
        repeat-expr: rank
      strides:
        io: _root.index.dims._io
        pos: (first_dim + rank) * 8
        type: u8
        repeat: expr
        repeat-expr: rank
        if: is_strided
        doc: In elements; without them, those of row-major order.
      stored_in:
        value: _root.index.storages.records[storage]
  storage_record:
    seq:
      - id: data_offset
        type: u8
        doc: "Where the data begins; a multiple of 2^alignment_log2."
      - id: data_len
        type: u8
        doc: Bytes of data; may be 0.
      - id: first_block
        type: u8
        doc: Which element of blocks is its first.
      - id: crc32
        type: u4
        doc: CRC-32 of the data.
      - id: reserved
        type: u4
        doc: Must be 0.
    instances:
      data:
        io: _root._io
        pos: data_offset
        size: data_len
      block_count:
        value: (data_len + _root.header.block_len - 1) / _root.header.block_len
      block_crcs:
        io: _root.index.blocks._io
        pos: first_block * 4
        type: u4
        repeat: expr
        repeat-expr: block_count
enums:
  dtype:
    0x0001:
      id: bool
      doc: "8 bits: 0 is false, 1 is true; see below for other bytes"
    0x0010:
      id: u8
      doc: "8 bits: unsigned integer"
    0x0011:
      id: u16
      doc: "16 bits: unsigned integer"
    0x0012:
      id: u32
      doc: "32 bits: unsigned integer"
    0x0013:
      id: u64
      doc: "64 bits: unsigned integer"
    0x0020:
      id: i8
      doc: "8 bits: two's complement integer"
    0x0021:
      id: i16
      doc: "16 bits: two's complement integer"
    0x0022:
      id: i32
      doc: "32 bits: two's complement integer"
    0x0023:
      id: i64
      doc: "64 bits: two's complement integer"
    0x0030:
      id: f16
      doc: "16 bits: IEEE 754 binary16"
    0x0031:
      id: bf16
      doc: "16 bits: the upper half of an f32"
    0x0032:
      id: f32
      doc: "32 bits: IEEE 754 binary32"
    0x0033:
      id: f64
      doc: "64 bits: IEEE 754 binary64"
    0x0040:
      id: c32
      doc: "32 bits: complex: real f16, imaginary f16"
    0x0041:
      id: c64
      doc: "64 bits: complex: real f32, imaginary f32"
    0x0042:
      id: c128
      doc: "128 bits: complex: real f64, imaginary f64"
    0x0050:
      id: f8_e4m3fn
      doc: "8 bits: OCP 8-bit float, 4 exponent bits, bias 7, no infinities"
    0x0051:
      id: f8_e4m3fnuz
      doc: "8 bits: 4 exponent bits, bias 8, no infinities, no negative zero"
    0x0052:
      id: f8_e5m2
      doc: "8 bits: OCP 8-bit float, 5 exponent bits, bias 15"
    0x0053:
      id: f8_e5m2fnuz
      doc: "8 bits: 5 exponent bits, bias 16, no infinities, no negative zero"
    0x0054:
      id: f8_e8m0fnu
      doc: "8 bits: OCP scale: a power of two, bias 127, no sign"
    0x0060:
      id: f4_e2m1fn_x2
      doc: "8 bits: two OCP 4-bit floats in a byte, the first in the low half; the shape counts bytes"
    0x0061:
      id: f4_e2m1fn
      doc: "4 bits: OCP 4-bit float, packed"
    0x0062:
      id: f6_e2m3fn
      doc: "6 bits: OCP 6-bit float, packed"
    0x0063:
      id: f6_e3m2fn
      doc: "6 bits: OCP 6-bit float, packed"
    0x0070:
      id: u1
      doc: "1 bits: unsigned integer, packed"
    0x0071:
      id: u2
      doc: "2 bits: unsigned integer, packed"
    0x0072:
      id: u4
      doc: "4 bits: unsigned integer, packed"
    0x0078:
      id: i2
      doc: "2 bits: two's complement integer, packed"
    0x0079:
      id: i4
      doc: "4 bits: two's complement integer, packed"
    0x00ff:
      id: opaque
      doc: "any bits: bits that this format does not interpret"
  section_kind:
    1:
      id: names
      doc: "the tensors' names, one after the other, in the order of the tensors, nothing between them"
    2:
      id: dims
      doc: "u64 each: for each tensor in order its dims, then its strides if it is strided"
    3:
      id: tensors
      doc: "tensor records, 40 bytes each, in ascending order of the names' bytes"
    4:
      id: storages
      doc: "storage records, 32 bytes each, in the order of their data in the file"
    5:
      id: blocks
      doc: "u32 each: CRC-32 of each checksum block, storage after storage"
    6:
      id: metadata
      doc: "one CBOR item (section 9)"
    7:
      id: document
      doc: "one CBOR item (section 9)"
