// A matrix as the sum of its first r singular directions. `data.matrices`: name -> { d_out, d_in, lo, hi, U, S, V }, where U [n, d_out] and
// V [n, d_in] are integers, `data.unit` to 1, and S are the singular values, largest first.
function explore(kit, data) {
  const names = Object.keys(data.matrices), sizes = names.map(n => data.matrices[n].S.length);
  const which = kit.choice("matrix", { label: "Matrix", options: names, value: names[0] });
  const rank = kit.slider("r", { label: "Rank r", min: 1, max: Math.max(...sizes), step: 1, value: data.r });
  const rows = Math.max(...names.map(n => data.matrices[n].d_out)), columns = Math.max(...names.map(n => data.matrices[n].d_in));
  const before = kit.image({ width: columns, height: rows, alt: "The matrix as grey values", caption: "the matrix" });
  const after = kit.image({ width: columns, height: rows, alt: "Its best copy of rank r as grey values" });
  const chart = kit.chart({ x: { label: "direction" }, y: { label: "singular value, largest = 1" }, height: 190, alt: "Singular values, those kept in green" });
  const out = kit.readout();
  function sum(m, r) {  // Σ σ u vᵀ over the first r directions, row by row, in a picture of the largest matrix's size
    const to = new Float32Array(rows * columns).fill(m.lo), unit = data.unit ** 2;
    for (let i = 0; i < m.d_out; i++)
      for (let j = 0; j < m.d_in; j++) {
        let v = 0;
        for (let k = 0; k < r; k++) v += m.S[k] * m.U[k][i] * m.V[k][j];
        to[i * columns + j] = v / unit;
      }
    return to;
  }
  const squares = s => s.reduce((a, b) => a + b * b, 0);
  kit.draw(() => {
    const m = data.matrices[which.value], n = m.S.length, r = Math.min(rank.value, n), numbers = m.d_out * m.d_in, factors = r * (m.d_out + m.d_in);
    const kept = squares(m.S.slice(0, r)) / squares(m.S), left = squares(m.S.slice(r)) / squares(m.S);
    before.show(sum(m, n), m.lo, m.hi); after.show(sum(m, r), m.lo, m.hi); after.caption(`rank ${r}`);
    chart.clear();
    chart.domain({ x: [0, n], y: [0, 1] });
    chart.bars(m.S.map((s, k) => ({ x0: k, x1: k + 1, y: s / m.S[0], color: k < r ? "trained" : "base", label: k < r ? "kept" : "cut off" })));
    const even = numbers / (m.d_out + m.d_in);
    chart.rule({ x: even, label: "break-even", color: "wrong" });
    out.show([["energy kept", `${(100 * kept).toFixed(1)} %`], ["relative error", Math.sqrt(left)],
              ["numbers in B and A", factors.toLocaleString("en")], ["numbers in the matrix", numbers.toLocaleString("en")],
              ["factors / matrix", `${(100 * factors / numbers).toFixed(0)} %`]]);
  });
}
