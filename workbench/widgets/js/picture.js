// What a stage shows, as a PNG: the image, the map above it, and the pins.

const WIDTH = 1024; // pixels, or a little less: a whole number for each pixel of the image

export async function pictureOf(stage) {
  const [image, heat] = [".image", ".heat"].map((name) => stage.querySelector(name)), overlay = stage.querySelector("svg");
  const size = Math.floor(WIDTH / image.width) * image.width || image.width, canvas = new OffscreenCanvas(size, size);
  const context = canvas.getContext("2d"), scale = size / overlay.viewBox.baseVal.width;
  const draw = (layer, smooth, alpha = 1) => {
    [context.imageSmoothingEnabled, context.globalAlpha] = [smooth, alpha];
    context.drawImage(layer, 0, 0, size, size);
    context.globalAlpha = 1;
  };
  if (image.classList.contains("grey")) context.filter = "grayscale(1)";
  draw(image, false);
  context.filter = "none";
  draw(heat, heat.classList.contains("smooth"), Number(heat.style.opacity));
  for (const pin of overlay.querySelectorAll(".pin")) {
    const circle = pin.querySelector("circle"), [x, y, radius] = ["cx", "cy", "r"].map((name) => scale * circle.getAttribute(name));
    context.fillStyle = pin.style.getPropertyValue("--pin");
    [context.strokeStyle, context.lineWidth, context.font] = ["#fff", 2 * scale, `700 ${11 * scale}px system-ui, sans-serif`];
    [context.textAlign, context.textBaseline] = ["center", "middle"];
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
    context.fillStyle = "#fff";
    context.fillText(pin.textContent, x, y);
  }
  return (await canvas.convertToBlob()).arrayBuffer();
}
