"""Lesson 12."""


def to_int8(row):
    absmax = max(map(abs, row))
    return [round(v*127/absmax) for v in row], absmax

def pack(codes):
    codes = list(codes) + [7]*(len(codes) % 2)
    return [a << 4 | b for a, b in zip(codes[::2], codes[1::2])]

def bits(block, nested): return 4 + 8/block + 32/(block*nested)

def outlier_block(weights, block, harm=lambda sizes: max(sizes)/sum(sizes), size=abs):
    parts = [[size(w) for w in weights[i:i + block]] for i in range(0, len(weights), block)]
    return max(range(len(parts)), key=lambda b: harm(parts[b]))


RIGHT = dict(check_int8_by_hand=to_int8, check_pack_nibbles=pack, check_quant_bits=bits, check_outlier_block=outlier_block)


def largest_number(row): return [max(-127, round(v*127/max(row))) for v in row], max(row)
def scaled_by(n, rnd=round): return lambda row: ([rnd(v*n/max(map(abs, row))) for v in row], max(map(abs, row)))


MUTANTS = {  # (checker, what is wrong) -> (wrong answer, what the message must say)
    ("check_int8_by_hand", "nothing"): (lambda r: None, "returns nothing"),
    ("check_int8_by_hand", "codes only"): (lambda r: to_int8(r)[0], "return two things"),
    ("check_int8_by_hand", "one code"): (lambda r: (to_int8(r)[0][:1], 2.), "one code for each number"),
    ("check_int8_by_hand", "largest number"): (largest_number, "largest *size*"),
    ("check_int8_by_hand", "step"): (lambda r: (to_int8(r)[0], to_int8(r)[1]/127), "return the absmax itself"),
    ("check_int8_by_hand", "sum"): (lambda r: (to_int8(r)[0], sum(map(abs, r))), "the absmax is 2"),
    ("check_int8_by_hand", "not rounded"): (lambda r: ([v*127/2. for v in r], 2.), "round"),
    ("check_int8_by_hand", "128"): (scaled_by(128), "divides by 128"),
    ("check_int8_by_hand", "cut"): (scaled_by(127, int), "cuts off the digits"),
    ("check_int8_by_hand", "sizes"): (lambda r: ([abs(c) for c in to_int8(r)[0]], 2.), "the sign is lost"),
    ("check_int8_by_hand", "fixed absmax"): (lambda r: ([round(v*127/2) for v in r], 2.), "goes the same way"),
    ("check_int8_by_hand", "four bits"): (scaled_by(7), "expected [32, -127, 76, -1]"),
    ("check_pack_nibbles", "nothing"): (lambda c: None, "returns nothing"),
    ("check_pack_nibbles", "unpacked"): (lambda c: c, "two go into one"),
    ("check_pack_nibbles", "low first"): (lambda c: [b << 4 | a for a, b in zip(c[::2], c[1::2])], "*upper* half"),
    ("check_pack_nibbles", "shift 8"): (lambda c: [a << 8 | b for a, b in zip(c[::2], c[1::2])], "shift by 4"),
    ("check_pack_nibbles", "sum"): (lambda c: [a + b for a, b in zip(c[::2], c[1::2])], "adding mixes"),
    ("check_pack_nibbles", "half"): (lambda c: pack(c)[:1], "four codes are two bytes"),
    ("check_pack_nibbles", "halves"): (lambda c: [a << 4 | b for a, b in zip(c[:2], c[2:])], "expected [182, 63]"),
    ("check_pack_nibbles", "crash"): (lambda c: [c[i] << 4 | c[i + 1] for i in range(0, len(c), 2)], "odd number of codes fails"),
    ("check_pack_nibbles", "lost"): (lambda c: [a << 4 | b for a, b in zip(c[::2], c[1::2])], "last one is lost"),
    ("check_pack_nibbles", "zero"): (lambda c: pack(c + [0]*(len(c) % 2)), "code 0 is −1"),
    ("check_pack_nibbles", "eight"): (lambda c: pack(c + [8]*(len(c) % 2)), "fill up with code 7"),
    ("check_quant_bits", "nothing"): (lambda b, n: None, "returns nothing"),
    ("check_quant_bits", "no scales"): (lambda b, n: 4, "scales are missing"),
    ("check_quant_bits", "no outer"): (lambda b, n: 4 + 8/b, "scale of the scales"),
    ("check_quant_bits", "share"): (lambda b, n: bits(b, n) - 4, "add the four bits"),
    ("check_quant_bits", "outer per weight"): (lambda b, n: 4 + 8/b + 32/n, "512 *scales* share"),
    ("check_quant_bits", "32"): (lambda b, n: 4 + 32/b + 32/(b*n), "8 bits, not 32"),
    ("check_quant_bits", "bytes"): (lambda b, n: 4 + 1/b + 4/(b*n), "those are bytes"),
    ("check_quant_bits", "fixed"): (lambda b, n: bits(64, 256), "use the arguments"),
    ("check_quant_bits", "fixed 128"): (lambda b, n: bits(128, 512), "one pair of sizes only"),
    ("check_quant_bits", "8 bits"): (lambda b, n: 2*bits(b, n), "expected 4.06"),
    ("check_outlier_block", "nothing"): (lambda w, b: None, "returns nothing"),
    ("check_outlier_block", "weight"): (lambda w, b: 9, "number of the weight"),
    ("check_outlier_block", "absmax"): (lambda w, b: outlier_block(w, b, max), "largest absmax"),
    ("check_outlier_block", "least"): (lambda w, b: outlier_block(w, b, lambda s: -max(s)/sum(s)), "*least* harm"),
    ("check_outlier_block", "signed"): (lambda w, b: outlier_block(w, b, lambda s: max(s)/sum(map(abs, s)), float), "compare sizes"),
    ("check_outlier_block", "from one"): (lambda w, b: outlier_block(w, b) + 4, "expected block 2"),
    ("check_outlier_block", "fixed size"): (lambda w, b: outlier_block(w, 4) if len(w) > 8 else 1, "blocks of four only"),
}
