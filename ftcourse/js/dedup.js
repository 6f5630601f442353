// The S-curve of locality-sensitive hashing: 1 − (1 − s^rows)^bands, over the pairs of real texts. `data.bins`: pairs by similarity, 50 bins from 0 to 1.
function explore(kit, data) {
  const bands = kit.slider("bands", { label: "Bands", values: [1, 2, 4, 6, 8, 9, 12, 16, 21, 25, 32, 42, 64, 128], value: data.bands });
  const rows = kit.slider("rows", { label: "Numbers in a band", min: 1, max: 20, step: 1, value: data.rows });
  const threshold = kit.slider("threshold", { label: "Pairs wanted from similarity", min: .1, max: 1, step: .05, value: data.threshold, format: v => v.toFixed(2) });
  const chart = kit.chart({ x: { label: "Jaccard similarity of a pair", domain: [0, 1] }, y: { label: "probability that it is found", domain: [0, 1] }, height: 220,
                            alt: "S-curve over similarity, the pairs of the texts as bars below it, the wanted similarity as a dashed line" });
  const out = kit.readout();
  const found = s => 1 - (1 - s ** rows.value) ** bands.value;
  function area(f, a, b, n = 2000) {  // Simpson's rule
    let sum = f(a) + f(b);
    for (let i = 1; i < n; i++) sum += f(a + (b - a) * i / n) * (i % 2 ? 4 : 2);
    return (b - a) * sum / (3 * n);
  }
  kit.draw(() => {
    const t = threshold.value, k = data.bins.length, most = Math.max(...data.bins), log = c => c ? (1 + Math.log(c)) / (1 + Math.log(most)) : 0;
    let wanted = 0, hit = 0, needless = 0;
    data.bins.forEach((c, i) => {
      const s = (i + .5) / k;
      if (i / k >= t - 1e-9) { wanted += c; hit += c * found(s); } else needless += c * found(s);
    });
    chart.clear();
    chart.bars(data.bins.map((c, i) => ({ x0: i / k, x1: (i + 1) / k, y: log(c) * .5, color: i / k >= t - 1e-9 ? "trained" : "base", label: i / k >= t - 1e-9 ? "pairs that are wanted (log scale)" : "other pairs (log scale)" })));
    chart.line(Array.from({ length: 201 }, (_, i) => [i / 200, found(i / 200)]), { color: "other", label: "probability to be found" });
    chart.rule({ x: t, label: "wanted from here", color: "trained" });
    out.show([["found at the threshold", found(t).toFixed(3)],
              ["numbers a text needs", bands.value * rows.value],
              ["half are found from", ((1 - .5 ** (1 / bands.value)) ** (1 / rows.value)).toFixed(3)],
              ["wanted pairs, expected to be found", `${hit.toFixed(1)} of ${wanted}`],
              ["needless pairs to verify, expected", needless.toFixed(1)],
              ["area of false positives", area(found, 0, t).toFixed(4)],
              ["area of false negatives", area(s => 1 - found(s), t, 1).toFixed(4)]]);
  });
}
