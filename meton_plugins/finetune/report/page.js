"use strict";
// For comfort alone: the values under the pointer. Without it the page says the same.
for (const figure of document.querySelectorAll(".chart")) {
  const svg = figure.querySelector("svg"), line = svg.querySelector(".line"), cursor = svg.querySelector(".cursor");
  const said = figure.querySelector("output"), { steps, low, high } = figure.dataset;
  if (!line) continue;
  const points = line.getAttribute("d").slice(1).split("L").map((pair) => pair.split(" ").map(Number));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = 1000 * (event.clientX - box.left) / box.width;
    const near = points.reduce((best, one) => Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best);
    const value = high - near[1] / 400 * (high - low);
    cursor.setAttribute("d", `M${near[0]} 0V400`);
    said.textContent = `step ${Math.round(near[0] / 1000 * steps)}: ${value.toPrecision(4)}`;
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("d", ""); said.textContent = ""; });
}
