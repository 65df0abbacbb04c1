#include "shapes.h"

long rectangle(long width, long height) { return width * height; }
