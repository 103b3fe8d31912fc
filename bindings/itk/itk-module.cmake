# For builds inside ITK's own tree, or with ITKModuleExternal. voxtile is found by its CMake package.
set(DOCUMENTATION "Segments volumes with STU-Net and nnU-Net networks by voxtile, without a framework.")

itk_module(Voxtile
  DEPENDS
    ITKCommon
  DESCRIPTION
    "${DOCUMENTATION}"
  EXCLUDE_FROM_DEFAULT
  )
