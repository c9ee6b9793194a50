// What is shown: follows the controls, and saves the reader's review. Nothing is fetched or sent.
const explanation = JSON.parse(document.getElementById("explanation").textContent);
const picture = document.getElementById("picture");
const over = document.getElementById("over");
const beside = document.getElementById("beside");
const controls = document.getElementById("controls");
const findings = document.getElementById("findings");
const review = document.getElementById("review-form");

function layerOf(finding, layer) {
  const [kind, number] = layer.split(":");
  return explanation.findings[finding][kind === "method" ? "methods" : "concepts"][Number(number)];
}

function selectOf(finding) {
  return controls.querySelector(`select[data-finding="${finding}"]`);
}

function state() {
  const finding = Number(findings.elements.finding.value);
  const layer = selectOf(finding).value;
  const isSigned = layerOf(finding, layer).map.unit === "logits";
  return {
    finding,
    layer,
    isSigned,
    side: isSigned ? controls.elements.side.value : "for",
    opacity: Number(controls.elements.opacity.value) / 100,
    place: controls.elements.place.value,
    outline: controls.elements.outline.checked,
    roi: Boolean(controls.elements.roi && controls.elements.roi.checked),
    smooth: controls.elements.smooth.checked,
  };
}

function sized(canvas) {
  const scale = Math.max(1, Math.ceil(LEAST_SIDE / picture.naturalWidth));
  canvas.width = scale * picture.naturalWidth;
  canvas.height = scale * picture.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return context;
}

function draw() {
  const chosen = state();
  const { map } = layerOf(chosen.finding, chosen.layer);
  const context = sized(over);
  context.imageSmoothingEnabled = chosen.smooth;
  context.drawImage(heat(map, chosen), 0, 0, over.width, over.height);
  if (chosen.outline) {
    const strong = { ...map, values: strengths(map, chosen.side) };
    outlined(context, pooled(strong, OUTLINE_CELLS), STRONGEST);
  }
  if (chosen.roi) {
    const { coverage, rows, columns } = explanation.roi;
    outlined(context, pooled({ values: coverage, rows, columns }, rows), EXPERTS);
  }
  beside.hidden = chosen.place !== "beside";
  // Two pictures side by side get the whole width: small ones say little.
  document.querySelector(".first").classList.toggle("paired", !beside.hidden);
  sized(beside);
  show(chosen);
}

// Shows what belongs to the choice, hides the rest, and says in words what is drawn.
function show(chosen) {
  const wanted = { finding: String(chosen.finding), layer: chosen.layer, side: chosen.side };
  for (const panel of document.querySelectorAll(".panel")) {
    panel.hidden = Object.entries(wanted).some(
      ([key, value]) => key in panel.dataset && panel.dataset[key] !== value,
    );
  }
  for (const radio of controls.elements.side) radio.disabled = !chosen.isSigned;
  review.elements.finding.value = String(chosen.finding);
  const option = selectOf(chosen.finding).selectedOptions[0].textContent;
  const finding = review.elements.finding.selectedOptions[0].textContent;
  over.setAttribute("aria-label", `${finding}, ${option}: what speaks ${chosen.side} it`);
  over.dataset.drawn = JSON.stringify(chosen);
  document.getElementById("reviewed-map").textContent = titleOfMethod(chosen);
}

// A sign's map is no method's: a review then judges the model's own map.
function reviewedMethod(chosen) {
  return chosen.layer.startsWith("method:") ? chosen.layer : "method:0";
}

function titleOfMethod(chosen) {
  const wanted = reviewedMethod(chosen);
  const option = [...selectOf(chosen.finding).options].find(({ value }) => value === wanted);
  return option.textContent;
}

function reviewed() {
  const answers = review.elements;
  const chosen = state();
  return {
    format: 1,
    made_at: new Date().toISOString(),
    reader: answers.reader.value,
    picture_sha256: explanation.picture.sha256,
    weights_sha256: explanation.model.weights_sha256,
    explained_at: explanation.made_at,
    run: explanation.model.run,
    task: explanation.task,
    finding: explanation.findings[chosen.finding].name,
    method: layerOf(chosen.finding, reviewedMethod(chosen)).name,
    region: answers.region.value,
    rationale: answers.rationale.value,
    confidence_before: Number(answers.confidence_before.value),
    confidence_after: Number(answers.confidence_after.value),
    remark: answers.remark.value,
  };
}

function save(event) {
  event.preventDefault();
  const content = reviewed();
  const text = `${JSON.stringify(content, null, 1)}\n`;
  const name = ["review", content.picture_sha256.slice(0, 12), content.finding, content.method]
    .concat(content.reader)
    .map((part) => part.replace(/[^A-Za-z0-9._-]+/g, "-"))
    .join("_");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `${name}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
  document.getElementById("saved").textContent = `Saved as ${link.download}.`;
  document.getElementById("saved-content").textContent = text;
  document.getElementById("saved-text").hidden = false;
}

function choose(finding, layer) {
  findings.elements.finding.value = String(finding);
  if (layer) selectOf(finding).value = layer;
  draw();
}

// A link to a number that belongs to another finding or map shows that one first.
function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const panel = target && target.closest(".panel");
  if (!panel || !panel.hidden) return;
  choose(Number(panel.dataset.finding), panel.dataset.layer);
  if (panel.dataset.side) controls.elements.side.value = panel.dataset.side;
  draw();
  target.scrollIntoView();
}

function start() {
  document.documentElement.classList.add("scripted");
  document.getElementById("still").hidden = true;
  over.hidden = false;
  controls.addEventListener("input", draw);
  findings.addEventListener("input", draw);
  review.elements.finding.addEventListener("input", () => choose(review.elements.finding.value));
  review.addEventListener("submit", save);
  for (const form of [controls, findings]) {
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  for (const button of document.querySelectorAll("button[data-show]")) {
    button.addEventListener("click", () => {
      choose(button.dataset.of, button.dataset.show);
      over.scrollIntoView({ block: "nearest" });
    });
  }
  window.addEventListener("hashchange", reveal);
  draw();
  reveal();
}

picture.decode().then(start);
