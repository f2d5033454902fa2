// The script of an exported page: the inspector with the answers that the page holds.

import { heldState, host, hostedModel } from "./hosted.js";

host(hostedModel({ ...heldState(), frozen: true }, () => {
  throw new Error("a page has no kernel");
}));
