// The module that anywidget loads.

import { widget } from "./inspector.js";

export default widget;
