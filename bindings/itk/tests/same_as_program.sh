#!/bin/sh
# The ITK pipeline and the program give the same labels: same_as_program.sh FILTER_TEST SEGMENT_IMAGE PROGRAM EXAMPLES
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" write "$4" "$folder"
cp "$4/ct_part.nii.gz" "$folder/straight.nii.gz"
for image in straight.nii.gz oblique.nii.gz oblique.nrrd oblique.mha; do
    "$2" "$4/demo.safetensors" "$folder/$image" "$folder/itk.nrrd" 2>/dev/null
    "$3" segment "$folder/$image" -m "$4/demo.safetensors" -o "$folder/program.nrrd" --quiet 2>/dev/null
    "$3" compare "$folder/itk.nrrd" "$folder/program.nrrd" | tail -1 | sed "s|^|$image: |" | tee "$folder/said"
    grep -q ": 0 of " "$folder/said"
done
# Of a DICOM series, which the program does not read, the labels are those of the same image.
"$2" "$4/demo.safetensors" "$folder/series" "$folder/itk.nrrd" 2>/dev/null
"$3" compare "$folder/itk.nrrd" "$folder/program.nrrd" | tail -1 | sed "s|^|series: |" | tee "$folder/said"
grep -q ": 0 of " "$folder/said"
mkdir "$folder/nothing"
if "$2" "$4/demo.safetensors" "$folder/nothing" "$folder/none.nrrd" 2>"$folder/said"; then exit 1; fi
grep "nothing has no DICOM series" "$folder/said"
