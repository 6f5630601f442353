// Rows as blocks in four batches: what fixed, dynamic, grouped, packed and flat layouts compute, and what of it in vain.
function explore(kit, data) {
  const names = Object.keys(data.lengths);
  const which = kit.choice("data", { label: "Rows", options: names, value: names[0] });
  const layout = kit.choice("layout", { label: "Layout", options: ["fixed", "dynamic", "grouped", "packed", "flat"], value: "dynamic" });
  const size = kit.slider("rows", { label: "Rows a batch", values: [1, 2, 4, 8, 16], value: 8 });
  const length = kit.slider("length", { label: "Longest row, or size of a bin", values: [64, 128, 192, 256, 384, 512, 768, 1024, 2048], value: 512, format: v => `${v} tokens` });
  const chart = kit.chart({ x: { label: "tokens" }, y: { label: "rows of the tensor, batch after batch", ticks: [] }, height: 280,
                            alt: "Each row of four batches as a horizontal block, with its padding behind it" });
  const out = kit.readout();
  function pack(lengths, capacity) {  // best-fit decreasing, as ftcourse.batch.pack
    const order = lengths.map((_, r) => r).sort((a, b) => lengths[b] - lengths[a] || a - b), bins = [], room = [];
    for (const r of order) {
      let best = -1;
      for (let b = 0; b < bins.length; b++) if (room[b] >= lengths[r] && (best < 0 || room[b] < room[best])) best = b;
      if (best < 0) { best = bins.length; bins.push([]); room.push(capacity); }
      bins[best].push(r); room[best] -= lengths[r];
    }
    return bins;
  }
  kit.draw(() => {
    const B = size.value, C = length.value, given = data.lengths[which.value].slice(0, 4 * B), kind = layout.value;
    const prefix = kind === "flat" && B > 1 ? Math.min(data.prefix[which.value] || 0, C - 1) : 0;
    let rows = given.map(n => Math.min(n, C));
    const cut = given.filter(n => n > C).length;
    if (kind === "grouped") rows = rows.slice().sort((a, b) => b - a);
    const lines = [];  // each {blocks: [tokens], width}: one row of a tensor
    let computed = 0;
    for (let i = 0; i < rows.length; i += B) {
      const batch = rows.slice(i, i + B);
      let made;
      if (kind === "packed") made = pack(batch, C).map(b => b.map(r => batch[r]));
      else if (kind === "flat") made = [[prefix, ...batch.map(n => n - prefix)]];
      else made = batch.map(n => [n]);
      const sums = made.map(b => b.reduce((x, y) => x + y, 0)), width = kind === "fixed" ? C : Math.max(...sums);
      computed += width * made.length;
      made.forEach((blocks, j) => lines.push({ blocks, width, last: j === made.length - 1, flat: kind === "flat" }));
    }
    const most = Math.max(...lines.map(l => l.width)), real = rows.reduce((a, b) => a + b, 0), useful = real - prefix * (rows.length - Math.ceil(rows.length / B));
    const bars = [];
    let y = 0;
    for (const l of lines) {
      let x = 0;
      l.blocks.forEach((n, k) => {
        if (n) bars.push({ x0: x, x1: x + n, y0: -y - .9, y: -y - .1, ...(l.flat && k === 0 ? { color: "sixth", label: "prefix, computed once" }
          : k % 2 ? { color: "other", label: "the next row" } : { color: "trained", label: "a row" }) });
        x += n;
      });
      if (x < l.width) bars.push({ x0: x, x1: l.width, y0: -y - .9, y: -y - .1, color: "wrong", opacity: .55, label: "padding, computed in vain" });
      y += l.last ? 1.6 : 1;
    }
    chart.clear();
    chart.domain({ x: [0, most], y: [-y, 0] });
    chart.bars(bars);
    out.show([["tokens computed", computed.toLocaleString("en")], ["tokens in the rows", real.toLocaleString("en")],
              ["computed in vain", `${(100 * (computed - useful) / computed).toFixed(1)} %`],
              ["saved by the prefix", (real - useful).toLocaleString("en")],
              ["rows cut", `${cut} of ${given.length}`], ["rows of tensors", String(lines.length)]]);
  });
}
