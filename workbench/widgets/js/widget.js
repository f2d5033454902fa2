// The inspector as the module that anywidget loads.

import { widget } from "./inspector.js";

export default widget;
