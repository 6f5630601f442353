// One conversation written in every format. `data`: system, earlier [question, answer], question, answer, worse.
function explore(kit, data) {
  const to = kit.choice("format", { label: "Write it as", options: ["messages", "sharegpt", "alpaca", "prompt_completion", "preference", "text"], value: "prompt_completion" });
  const system = kit.toggle("system", { label: "It has a system prompt", value: true });
  const earlier = kit.toggle("earlier", { label: "It has an earlier exchange", value: false });
  const worse = kit.toggle("worse", { label: "It has a worse answer", value: false });
  const strings = kit.toggle("strings", { label: "Plain texts instead of turns", value: false });
  const panel = kit.panel({ role: "group", "aria-label": "The row as JSON" });
  const out = kit.readout();
  const pre = element(panel, "pre", { style: "white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; font-size: 12.5px; line-height: 1.5; background: none; color: inherit;" });
  const turn = (role, content) => ({ role, content });
  const before = () => [...(system.value ? [turn("system", data.system)] : []), ...(earlier.value ? [turn("user", data.earlier[0]), turn("assistant", data.earlier[1])] : []), turn("user", data.question)];
  const answer = turn("assistant", data.answer), flat = () => [...(system.value ? ["system"] : []), ...(earlier.value ? ["earlier_turns"] : [])];
  const write = {  // each returns the row and what it loses
    messages: () => [{ messages: [...before(), answer] }, []],
    sharegpt: () => [{ conversations: [...before(), answer].map(t => ({ from: { system: "system", user: "human", assistant: "gpt" }[t.role], value: t.content })) }, []],
    alpaca: () => [{ instruction: data.question, input: "", output: data.answer }, flat()],
    prompt_completion: () => strings.value ? [{ prompt: data.question, completion: data.answer }, flat()]
      : [{ prompt: before(), completion: [answer] }, earlier.value && !worse.value ? ["untrained_answers"] : []],
    preference: () => !worse.value ? [null, ["no worse answer: it cannot be made up"]]
      : strings.value ? [{ prompt: data.question, chosen: data.answer, rejected: data.worse }, flat()]
      : [{ prompt: before(), chosen: [answer], rejected: [turn("assistant", data.worse)] }, []],
    text: () => [{ text: [...before(), answer].map(t => `<|im_start|>${t.role}\n${t.content}<|im_end|>\n`).join("") }, []],
  };
  kit.draw(() => {
    const [row, lost] = write[to.value](), text = row ? JSON.stringify(row) : "";
    if (worse.value && to.value !== "preference") lost.push("rejected");
    pre.textContent = row ? JSON.stringify(row, null, 2) : "This row cannot be written in this format.";
    out.show([["lost", lost.sort().join(", ") || "nothing"], ["characters", String([...text].length)]]);
  });
}
