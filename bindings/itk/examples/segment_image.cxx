// Reads an image file or the folder of a DICOM series, segments it, and writes the label map:
//
//   segment_image MODEL.safetensors IMAGE LABELS
#include <itkCommand.h>
#include <itkGDCMImageIO.h>
#include <itkGDCMSeriesFileNames.h>
#include <itkImageFileReader.h>
#include <itkImageFileWriter.h>
#include <itkImageSeriesReader.h>
#include <itksys/SystemTools.hxx>

#include <iostream>

#include "itkVoxtileSegmentationImageFilter.h"

using Image = itk::Image<float, 3>;
using Labels = itk::Image<uint8_t, 3>;

static Image::Pointer
Read(const std::string & path)
{
  if (!itksys::SystemTools::FileIsDirectory(path))
  {
    return itk::ReadImage<Image>(path);
  }
  auto names = itk::GDCMSeriesFileNames::New();
  names->SetDirectory(path);
  if (names->GetInputFileNames().empty())
  {
    itkGenericExceptionMacro(<< path << " has no DICOM series");
  }
  auto reader = itk::ImageSeriesReader<Image>::New();
  reader->SetImageIO(itk::GDCMImageIO::New());
  reader->SetFileNames(names->GetInputFileNames());
  reader->Update();
  return reader->GetOutput();
}

int
main(int argc, char ** argv)
{
  if (argc != 4)
  {
    std::cerr << "usage: segment_image MODEL.safetensors IMAGE LABELS\n";
    return 2;
  }
  try
  {
    auto filter = itk::VoxtileSegmentationImageFilter<Image, Labels>::New();
    filter->SetInput(Read(argv[2]));
    filter->SetModelFileName(argv[1]);
    auto show = itk::CStyleCommand::New();
    show->SetCallback([](itk::Object * caller, const itk::EventObject &, void *) {
      std::cerr << '\r' << int(100 * static_cast<itk::ProcessObject *>(caller)->GetProgress()) << " % ";
    });
    filter->AddObserver(itk::ProgressEvent(), show);
    itk::WriteImage(filter->GetOutput(), argv[3], true);
    std::cerr << '\n';
  }
  catch (const itk::ExceptionObject & error)
  {
    std::cerr << error.GetDescription() << '\n';
    return 1;
  }
  return 0;
}
